"""Loss functions: those of D3GZSL and of contrastive generators."""
