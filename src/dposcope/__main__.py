"""`python -m dposcope`, the form that launchers such as `accelerate launch -m` need."""

from dposcope.cli import main

if __name__ == "__main__":
    main()
