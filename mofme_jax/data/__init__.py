"""What is seen: photographs, weather, folders, the training stream."""
