"""The notebooks as a whole: how large they are, how they are run, cleaned and written as pages."""
