"""Keys of encrypted sessions and the cipher of texts and audio."""
