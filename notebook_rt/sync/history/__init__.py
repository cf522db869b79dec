"""What a table was at any moment that was recorded; pure: changes and times go in, states come out."""
