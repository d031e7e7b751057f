"""`expunge erase`: the request, the search, the audits, what the erasure comes to, and all of it carried out."""
