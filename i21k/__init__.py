"""Train an image classifier on the full ImageNet on one machine: pack, train, evaluate, predict."""
