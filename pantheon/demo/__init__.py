"""The demo's data, models, recipe and pictures: scikit-learn's 1,797 scanned digits."""
