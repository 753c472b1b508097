"""What `i21k.data.pack` is made of."""
