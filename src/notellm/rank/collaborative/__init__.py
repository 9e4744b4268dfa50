"""Collaborative models behind one interface: matrix factorization, LightGCN, SASRec."""
