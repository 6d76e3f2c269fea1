"""What other tools' protocols say, apart from HTTP: their documents in, their documents out."""
