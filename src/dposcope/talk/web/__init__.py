"""The local web page: a server for one person on this machine."""
