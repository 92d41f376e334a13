"""What notion-oauth costs and what it saves, measured next to other OAuth clients in one run."""
