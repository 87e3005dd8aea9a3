"""Foreign words to ours and back; no physics."""
