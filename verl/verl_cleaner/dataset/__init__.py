"""Data sets on their way into VeRL: what a row's source asks for, the files' schemas, difficulty."""
