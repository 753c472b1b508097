"""Images from a source to shuffled shards, in five phases: read, plan, write, commit, clean up."""
