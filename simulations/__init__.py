"""Virtual time and a virtual network around the real protocol code."""
