"""Outside ways to compute the same model, one file each: `build(engine)` returns a contender or raises `Unavailable`."""
