"""Write results whole or not at all, and replace only what notellm itself wrote."""
