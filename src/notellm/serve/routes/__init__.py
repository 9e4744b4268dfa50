"""The routes of the HTTP API: one module for each part, with a function that adds its routes."""
