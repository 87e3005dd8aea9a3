"""A student against its teacher on organic molecules: contacts, torsions, vibrations, unseen molecules, liquids."""
