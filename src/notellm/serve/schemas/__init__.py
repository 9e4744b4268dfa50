"""What the HTTP API accepts and answers, one module for each part; the examples are shown by OpenAPI."""
