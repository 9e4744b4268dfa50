"""The stages as jobs, which the command line calls: they read folders and write folders."""
