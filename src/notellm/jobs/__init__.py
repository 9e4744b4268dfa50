"""The stages as jobs: folders in, folders out; what the command line calls."""
