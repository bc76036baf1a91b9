"""How the trainer learns from failed calls that their repairs replaced."""
