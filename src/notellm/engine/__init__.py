"""What a service asks: store, index, NoteLLM and ranker together, while notes come and go."""
