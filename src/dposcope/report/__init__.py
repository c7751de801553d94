"""How a result is shown: tables, figures, pages."""
