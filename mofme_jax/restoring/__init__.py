"""How a trained network is used: files of images, pictures of doubt and of experts."""
