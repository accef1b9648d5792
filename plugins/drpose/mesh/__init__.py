"""A coloured mesh from six views: fitted, refined, coloured, written, shown."""
