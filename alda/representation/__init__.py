"""Autoencoders trained alone, on frames that nobody rewards: what encoder, memory and normalisation each do.

material.py      frames to learn from, twins of held-out states in other worlds, frames with independent sources
autoencoder.py   ALDA's encoder, latent model and decoder, learning as they do in ALDA
numbers.py       what one of them makes of the other worlds
study.py         latent models x normalisations x seeds, each in a process; goes on after whatever stopped it
summary.py       tables and pictures of them all
"""
