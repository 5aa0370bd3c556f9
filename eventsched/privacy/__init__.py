"""Encryption for each session, and forgetting: who may read what was said, and for how long.

encryption/keystore.py    the keys: the seam, and the folder that implements it     (start here)
encryption/cipher.py     what one key encrypts, and what each piece is bound to
encryption/decrypt.py     reading what was sealed, for those who have the right
forgetting.py  a key's end: by name, or by age

Never does: import cryptography before something is to be encrypted or read (extra `privacy`).
"""
