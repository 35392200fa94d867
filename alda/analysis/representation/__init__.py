"""Autoencoders trained alone, on frames without rewards: what encoder, memory and normalisation each do.

dataset.py      frames to learn from, held-out states under every shift, frames with independent sources
autoencoder.py  ALDA's encoder, latent model and decoder: learning, and what they make of each shift
summary.py      tables and pictures of many autoencoders, with intervals and differences
"""
