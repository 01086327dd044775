"""Models inside the app: the list to choose from, downloads, the first run."""
