"""Tables that move with the ledger: which thumb stands, who met which version, and what follows."""
