"""What notion-oauth costs and what it saves, measured beside other OAuth clients in one run."""
