"""How close the harness is to the limit: each row of the table is one module, measured against its opponent."""
