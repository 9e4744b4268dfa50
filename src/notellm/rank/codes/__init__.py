"""Binary codes of users and items: made from a collaborative model, and as text."""
