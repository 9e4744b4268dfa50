"""Renewing the models of a store: train on its log, compare with the models that serve, and take over."""
