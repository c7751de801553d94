"""What needs two models on the same tokens: interchange, attribution patching, mediation."""
