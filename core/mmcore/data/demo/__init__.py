"""Sample scenes for --demo, in the formats of real data sets."""
