"""The index that searches the vectors of a store: interface, implementations, filters and selection."""
