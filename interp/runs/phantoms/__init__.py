"""Models whose geometry is known in closed form, and what each analysis must measure on them."""
