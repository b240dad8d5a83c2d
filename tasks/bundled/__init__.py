"""Small real data that ships: eleven sets, each with a card, cut once into fixed splits."""
