"""Files of rows as Arrow tables of cells: which files, what they hold, how they are written."""
