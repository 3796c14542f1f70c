"""What a sweep file says: its keys, types and meaning, with every problem at once."""
