"""Methods: what is trained, how the loss comes about, one file each."""
