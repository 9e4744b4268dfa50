"""The index that searches the vectors of a store: its interface and its implementations."""
