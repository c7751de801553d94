"""The page of `dposcope explain`: result, texts, claims, method."""
