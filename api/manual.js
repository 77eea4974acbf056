"use strict";

// Swagger UI would otherwise let a validator on another host read the document.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
