"""What Pantheon's configurations are tried on; run from the folder above."""
