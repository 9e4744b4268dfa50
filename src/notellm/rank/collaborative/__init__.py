"""Collaborative models behind one interface: matrix factorisation, LightGCN, SASRec."""
