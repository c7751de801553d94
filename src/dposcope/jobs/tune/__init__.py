"""`dposcope tune`: learned gains, and the search for the best edit."""
