"""Heads for a base model from nothing but itself: write dialogues, train on them, measure."""
