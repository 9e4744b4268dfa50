"""Lexical search: the words of texts, BM25, and the share of words in hybrid search."""
