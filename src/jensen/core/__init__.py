"""Words every layer shares: errors, precision, random streams, the layout of the flat vector. Imports nothing of jensen."""
